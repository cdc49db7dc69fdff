"""Members of a computation on different machines.

identity      who a member is: certificates, signatures, and connections that are mutually authenticated
certificates  a group's own authority, and certificates and keys made by it
"""
