"""The commands of the command line, one module each; a module is imported only when its command runs."""
