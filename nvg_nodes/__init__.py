"""The ComfyUI nodes of NVG: they know nvg_model and the host, and run without the host too (`nvg-run`)."""
