"""How a flow lives and dies: in a process of its own, or inside a program."""
