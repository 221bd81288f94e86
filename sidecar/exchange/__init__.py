"""The sans-IO machine of one ext_proc stream: events in, effects out."""
