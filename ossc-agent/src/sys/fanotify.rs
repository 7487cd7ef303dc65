//! fanotify groups, marks, events and answers (fanotify(7)).
