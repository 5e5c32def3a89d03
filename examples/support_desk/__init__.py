"""A support desk that serves many companies from one worker.

`orkestra worker support_desk --task-queue support` runs it; `orkestra demo` drives it.
"""
