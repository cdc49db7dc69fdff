"""Workers on different machines.

settings      a worker's configuration, from a TOML file or options
group         a group file: who takes part, where, in which role
"""
