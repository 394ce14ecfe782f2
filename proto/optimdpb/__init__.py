"""What server and client share: the generated messages, the specifications as Python values, and the errors."""
