"""`optimd demo`: Ray workers train a small network on real handwritten digits against an optimd server.

mlp.py is the network, worker.py the loop of one worker; the rest starts things and shows them.
"""
