def test_one(shop):
    assert shop.planned().progress.shards_total == 4
