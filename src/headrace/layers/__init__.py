"""The layers of the default stack, one concern a module. They do not import each other."""
