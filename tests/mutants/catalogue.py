"""The bugs that run.py plants: what each is, where it goes, and which tests should see it.

An entry replaces a text that occurs once in its file: with a bug that others have shipped, or one
that is easy to make there. Entries with `under` need that sanitizer: without it the run is right by
luck. `equivalent` says why an entry
changes nothing that can be seen; it is planted all the same, and nothing may see it.
"""
import attention_bugs
import other_bugs
import plan_bugs
import radix_bugs
import sample_bugs

MUTANTS = (
    attention_bugs.BUGS + radix_bugs.BUGS + other_bugs.BUGS + plan_bugs.BUGS + sample_bugs.BUGS
)
