"""A truezram device: making it, asking its server, removing it; what it is made with and what can be set on it."""
