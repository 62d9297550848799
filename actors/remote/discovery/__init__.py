"""actors/remote/discovery"""
