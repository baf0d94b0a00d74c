"""What tests share, in packages by subject; tests/README.md lists them."""
