"""The fleet: every machine that serves the same index, brought up to it from one place.

machines    who belongs to it, and who is active             (values)
served      what a machine tells the public about itself      (values)
verdicts    what an answer means for the update               (values)
report      how it went, as a table                           (values)
discovery   asks Fly, a command or DNS for the machines
upload      puts the local index into the store, if it may
extra       uploads the extra files, where they are made
around      the commands before and after, and the notices
poke        speaks with one machine
run         the flow: before, upload, find, poke, follow, retry, after, report
progress    the same while it is under way, for people and for programs
service     the same inside a daemon, one at a time
follower    starts it by itself, after a quiet time
"""
