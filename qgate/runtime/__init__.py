"""Where networks run: an executor for each kind of device, and copies from a device to the host."""
