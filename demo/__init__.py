"""``make demo``: a hub and three nodes with real connectomes on this machine, and a tour through what they answer.

``processes`` starts and ends the daemons, ``reference`` reads the source files a second time without any code of
SynDB, ``tour`` asks the questions and compares.
"""
