"""The program `optimd`, whose commands live on both sides of the contract and are imported when they are called."""

from optimdpb.program.main import PROGRAM, main

__all__ = ["PROGRAM", "main"]
