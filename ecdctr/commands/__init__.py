"""What the commands do, one module each; a module is imported only when its command runs."""
