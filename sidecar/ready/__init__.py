"""The ready work: what is slow and optional, done in the background once a generation is loaded.

    databases   fetch the event databases that are missing, empty or older than the store's
    migrate     bring their schemas up to the application's
    orphans     tell of the databases of events that left this machine, and remove them where configured
    prerender   render the public pages that changed

`plan` and `pages` decide, without touching anything; `folder`, `memory` and `lock` touch files; `databases`,
`prerender` and `push` do the work; `runner` decides when, one at a time on a machine. Nothing here can fail
or delay an update.
"""
