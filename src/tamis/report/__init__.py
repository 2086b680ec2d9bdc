"""Stage folders in, one offline page and a terminal table out. Percentages appear only here."""
