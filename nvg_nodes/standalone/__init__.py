"""The small host: what runs workflows without ComfyUI."""
