def write_gallery(*a): pass
