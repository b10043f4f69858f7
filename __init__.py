"""NVG for ComfyUI: the entry point that ComfyUI loads.

There are no nodes yet: they come with the package `nvg_nodes`. The model is in `nvg_model`.
"""
