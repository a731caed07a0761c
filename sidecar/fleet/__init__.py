"""The fleet: every machine that serves the same index, brought up to it from one place.

machines              who belongs to it, and who is active             (values)
verdicts              what an answer means for the update              (values)
report                how it went, as a table                          (values)
table                 what the tables are made of                      (values)
rollout               a rollout by canary, and what follows for it     (values)
index_history         what the store has held, and where to go back to (values)
discovery             asks Fly, a command or DNS for the machines
upload                puts the local index into the store, if it may
extra                 uploads the extra files, where they are made
hooks                 the commands before and after, and the notices
machine_client        speaks with one machine
nats_link             one connection to a NATS server
bus                   hints and statements on it, for machines and for whoever updates them
machine_updates       many machines, each on its way to an index
store_records         the history, and the rollout's record, in the store
index_history_writer  writes the history
context               all of that, opened for one command
run                   the flow: before, upload, find, poke, follow, retry, after, report
driver                drives a rollout, from one record to the next
coordinator           begins rollouts, and goes on with those of dead drivers
control               pauses, goes on, aborts
preview               what an index would change, region by region
undo                  puts an older index back
progress              the same while it is under way, for people and for programs
service               the same inside a daemon, one at a time
debounce              starts it by itself, after a quiet time
"""
