"""actors/remote"""
