"""Planted faults: operators and constants of the update rules, flipped one at a time. Do the tests notice?"""
