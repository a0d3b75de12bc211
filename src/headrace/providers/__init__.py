"""Providers: where a request leaves the house, over sockets of our own."""
