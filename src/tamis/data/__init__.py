"""Rows of fine-tuning data: loading, ids, rendering with a chat template, batches, audit.

::

    records   files -> raw records, one by one (json_, csv_, parquet_records; hub for `datasets`)
    formats   one record -> a conversation (checks: what every conversation must hold)
    example   Example, its id, and Examples, a memory-mapped sequence of them
    load      all of the above: any source -> Examples, bad records quarantined and counted
    anchors   known requests with openings, refusals and answers, shipped or a folder of one's own
    template  Examples -> RenderedRows: token ids and labels (chat_format: which characters are the
              response's; segment_tokens, shorten, renderer: tokens, limits, outcomes)
    batch     padding, token budgets, visiting orders
    audit     what a rendering did to the set
"""
