"""What is measured of tokenizers and generators: numbers from pictures, each in a file of its own."""
