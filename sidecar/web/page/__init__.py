"""The operators' page: records in, HTML out. Nothing here asks, waits or knows the time; `web.browser` does.

    markup    elements that escape whatever they are given
    layout    what every page has: head, navigation, footer; error pages
    parts     states, moments, durations, lists of names, logs, diffs
    now       what is, and the run that is under way
    change    what an update or a rollback would do, and the question before it
    before    the history, one generation, and their charts
    atlas     the map of regions and studios
    assets/   the style sheet, the script and the icon

All addresses are relative, so the page works under any prefix.
"""
