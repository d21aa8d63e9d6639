"""The cffi extension (native/_native.cdef). Its values are cffi's, without static types."""

from typing import Any

ffi: Any
lib: Any
