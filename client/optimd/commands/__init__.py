"""What operators run: the commands of `optimd` that talk to a server. `import optimd` imports none of them."""
