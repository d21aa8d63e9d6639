"""truezram: a compressed RAM block device in userspace, and the page codecs behind it."""

__version__ = "0.1.0"
