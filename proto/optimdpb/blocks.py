"""The shape of ENCODING_INT8_BLOCK, for encoders and kernels: plain numbers, so that pure code may know them too."""

# A block: a float32 scale, then one signed byte for each element.
INT8_BLOCK_ELEMENTS = 256
INT8_SCALE_BYTES = 4
INT8_BLOCK_BYTES = INT8_SCALE_BYTES + INT8_BLOCK_ELEMENTS
# The largest |byte| that an encoder writes.
INT8_MAX = 127
