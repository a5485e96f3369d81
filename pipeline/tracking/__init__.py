"""Tracking of a training: the ledger is the record, and W&B follows it in a process of its own.

| module | content |
|---|---|
| `ledger` | RUN/ledger.jsonl, one line per epoch, on the disk before training goes on |
| `metric_names` | one name per figure |
| `follower` | starts and ends the follower process; all that a command needs |
| `follower_process` | the process: reads ledgers as they grow, falls back to a record on disk |
| `subjects` | what is recorded of a training and of a diagnosis |
| `wandb_door` | the only door to wandb |
"""
