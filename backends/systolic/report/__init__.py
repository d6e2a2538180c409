"""What a program costs: cycles, utilisation, bytes and energy of each layer; tables, pictures, a page, traces."""
