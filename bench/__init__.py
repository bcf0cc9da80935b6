"""Measurements of the running mesh, each as a ratio to a baseline that is run beside it: `python -m bench`.

`load` makes the traffic in a process of its own, `rig` is the mesh with its client, `sustained` finds the highest rate
that it holds, `baseline` what the broker alone carries, `profile` says where the time goes, `report` prints and writes.
"""
