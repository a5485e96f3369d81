"""Many trainings: a search for good settings, or a study of arms over seeds; results go to a study folder.

`space` says what is searched and `arms` what is compared. `search` (drawn by TPE, halved by ASHA) and `study` (arms x
seeds) are sources of tasks; `engine` runs them on Ray, each as an `attempt`: a process of its own that does a `trial`.
`ledger` is the record, `statistics` what it says, `results` and `page` show it.
"""
