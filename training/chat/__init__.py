"""`herd-tiny-chat`: its data, its training and its judge."""
