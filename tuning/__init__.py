"""Search normalization settings over many trainings; results go to a study folder.

`space` says what is searched, `trial` runs one training, `search` is the door to Ray, `results` keeps the table.
"""
