"""The pure core: no I/O, no clock, no asyncio. It decides everything and does nothing."""
