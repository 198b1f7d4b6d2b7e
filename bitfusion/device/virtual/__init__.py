"""The virtual GPU: a device made of CPU that runs PTX as machine code (docs/design/virtual-gpu.md)."""
