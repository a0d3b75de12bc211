"""The gateway's face: the engine behind HTTP, in the dialects of the official SDKs."""
