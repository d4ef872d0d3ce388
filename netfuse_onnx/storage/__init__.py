"""Where the bytes of weights lie; how they are read, compared, rearranged and copied without being held."""
