"""What a client believes about an upstream, and why: `python -m consulmesh.debug booking`."""
