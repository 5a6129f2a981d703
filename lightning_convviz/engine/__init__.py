"""When, where, on what and on which rank a callback draws, and what happens when it fails; knows no callback.

Callbacks meet it in `contract` alone. `coordinator` is entered by Lightning's hooks; there is one for each Trainer.
"""
