"""What tests of several rooms share: servers to talk to, raw calls of the contract, a proxy that misbehaves."""
