# The cffi extension (native/_native.cdef says what is in it). cffi's own checks are at run time.
from typing import Any

ffi: Any
lib: Any
