"""This machine: its memory, swap and zram devices, who uses a device, the settings that swap depends on."""
