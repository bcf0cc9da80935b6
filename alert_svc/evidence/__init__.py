"""Makes the pictures of alerts: face, whole frame and reference side by side.

One server at a time, which holds the store's lease, makes them: `worker` follows the alert log from a cursor of its own
and looks after each alert that was raised until its frame has come to history, or is given up (`store` keeps both in
Redis). `sources` asks history and match, `picture` draws. The picture goes to history as a frame of the appearance, so
that retention and erasure reach it, and the alert is told where it is. No alert ever waits for its picture.
"""
