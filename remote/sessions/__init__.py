"""Sessions whose members are processes on machines of their own.

messages          what a driver and the members of a session say to each other
driver            the driver's side: commands, results, costs, errors
hosting           a worker's sessions: which it agrees to, and who may speak in them
hosted            one session at one worker
meeting           how a member gets connected to all others
parts             shares on their way to members, in parts
arrivals          shares that come from outside, in parts
preparing         what a member does when a program is prepared and used
blocks            what a member keeps of that
tracing           the driver's side of it
contributing      owners of data share it themselves
checkpointing     ``save_checkpoint`` and ``load_checkpoint``
checkpoints       what a member does for them
checkpoint_state  nested states of models and optimizers as bytes
checkpoint_files  encrypted files, written whole or not at all
lanes             models over parties that consist of several processes
ranks             what the processes of one party do together
"""
