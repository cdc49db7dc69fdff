"""Plans: functions recorded as graphs of aten operations, sent once as data and run by one message.

    errors      what can be wrong with a call
    forms       nested arguments and results as plain data
    graph       the data form: inputs, state, nodes, output, and its version
    numbers     arithmetic on sizes and other numbers inside a graph
    checking    every node against the worker's list and torch's schemas
    running     the interpreter
    listing     a graph as readable text
    captured    names of the tensors a function uses
    optimizers  state of torch's optimizers, made before recording
    tracing     recording, by PyTorch's own ``make_fx``
    state       what a plan keeps between calls
    plan        ``Plan`` and ``func2plan``
    pointer     ``PointerPlan``
    serving     how a node runs plans and protocols
    exported    programs of ``torch.export`` and TorchScript
    protocol    plans at several workers, one after the other
    roles       functions written for several parties at once
"""
