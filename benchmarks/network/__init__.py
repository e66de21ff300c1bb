"""Distributed training over a network of known speed, made of namespaces of one machine.

`cluster` is the network, `workloads` are the logs and `head` what stands on their tables, `meter`
takes the time and the bytes of a program's steps, `formulas` says how many bytes there should be,
`transfer` checks the network itself. `workloads`, `head` and `meter` import PyTorch and NumPy
alone: TorchRec's programs run in an environment of their own.
"""
