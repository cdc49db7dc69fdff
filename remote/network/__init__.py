"""Workers as processes: what they are, how they are reached, what they serve.

settings          a worker's configuration, from a TOML file or options
group             a group file: who takes part, where, in which role
stream            TLS bytes on a socket that several threads use
websocket         messages on a stream
control           requests, replies and notices on a websocket
acceptor          connections whose certificates are known
server            a node and its sessions behind one port
node              the node of a worker process, which reaches others as itself
client            ``connect``: a worker elsewhere, usable like a virtual one
tutorial_workers  the same under the tutorials' names
sources           a worker's own data sets
approvals         what a worker's owner decides about requests
audit_file        an audit as a file with a hash chain
"""
